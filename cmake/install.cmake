# What `cmake --install` puts where: header, both libraries, the program, the shipped model, a pkg-config file and a CMake
# package. The tree can be moved as a whole: everything in it is found relative to where it lies.

include(CMakePackageConfigHelpers)

set(INK_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/inkstone)

install(FILES include/inkstone.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(TARGETS ink_shared EXPORT inkstone-shared
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS ink_static EXPORT inkstone-static
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET inkstone)
  install(TARGETS inkstone RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(DIRECTORY models/demo DESTINATION ${CMAKE_INSTALL_DATADIR}/inkstone/models OPTIONAL)
endif()

# Two sets, because only the static library asks its users for jansson and utf8proc.
foreach(kind shared static)
  install(EXPORT inkstone-${kind} NAMESPACE inkstone:: FILE inkstone-${kind}.cmake DESTINATION ${INK_PACKAGE_DIR})
endforeach()
configure_package_config_file(cmake/inkstone-config.cmake.in inkstone-config.cmake
  INSTALL_DESTINATION ${INK_PACKAGE_DIR} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(inkstone-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/inkstone-config.cmake ${PROJECT_BINARY_DIR}/inkstone-config-version.cmake
  DESTINATION ${INK_PACKAGE_DIR})

foreach(folder INCLUDEDIR LIBDIR)
  cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_${folder} BASE_DIRECTORY ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
    OUTPUT_VARIABLE INK_PC_${folder})
endforeach()
configure_file(cmake/inkstone.pc.in inkstone.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/inkstone.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
